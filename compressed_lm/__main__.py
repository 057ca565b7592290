"""`python -m compressed_lm VERB` is `compressed-lm VERB`."""

import sys

from compressed_lm.cli import main

sys.exit(main())
