import sys

from vocabpress.cli.app import main

sys.exit(main())
