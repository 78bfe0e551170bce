"""`python -m benchmark` is `imcil`."""

import sys

from benchmark.cli import main

sys.exit(main())
