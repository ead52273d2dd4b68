"""`python -m keras_mixer` is `keras-mixer`, with TensorFlow's start-up messages; see `keras_mixer_command`."""

import sys

from keras_mixer_command import main

sys.exit(main())
