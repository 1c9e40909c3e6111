"""What people read: the summary line in the checkout's own words, the table of modules, comparisons, pictures.

Counting is done by the ledgers of ``utils.thop``, formatting here and nowhere else. The fork uses ``show_summary`` and
``speed``; the command uses ``ModelInfo``, the comparison and the pictures.
"""
