"""``python -m utils.thop``, or ``python -m yolov5.utils.thop`` where YOLOv5 is the pip package."""

import sys

from .command.cli import main

sys.exit(main())
