"""Settings that every test shares."""

import torch
from hypothesis import settings

# A busy machine can take longer than hypothesis' 200 ms over one example; a time-out there says nothing of the code.
settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")

# The networks here are so small that a second thread costs more than it saves; and one thread sums in one order.
torch.set_num_threads(1)
