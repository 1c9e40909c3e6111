"""``python -m utils.thop``: its arguments, the models and checkouts that it is told to count, what it prints.

It builds models with a checkout's own classes, without values and without a word from them. Others use ``compare`` and
``choose``.
"""

from .choose import choose
from .compare import compare
