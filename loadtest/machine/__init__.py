"""Whether this machine can hold a given number of devices, how many it could, and which settings are in the way.

needs.py            pure: what N connections on one machine take, against what there is
facts.py            what this machine's kernel says: reads /proc, changes nothing
kernel_settings.py  sets what is in the way and puts it back, for who asks for that
here.py             whether an address is this machine's own
"""

from loadtest.machine.facts import read_machine
from loadtest.machine.needs import Fit, MachineFacts, Need, Shape, fit

__all__ = ["Fit", "MachineFacts", "Need", "Shape", "fit", "read_machine"]
