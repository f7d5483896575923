"""What every process of the tests begins with."""

import signal

# A shell that starts the tests in the background has Ctrl-C ignored, by all their processes too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
