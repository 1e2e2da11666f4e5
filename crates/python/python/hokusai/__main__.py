"""``python -m hokusai``."""

import sys

from hokusai._command import main

sys.exit(main())
