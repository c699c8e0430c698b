"""``python -m gala`` is the command ``gala``."""

import sys

from gala.cli import main

sys.exit(main())
