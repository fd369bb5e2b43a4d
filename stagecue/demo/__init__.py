"""One compressed night with simulated devices: the whole system, real sockets, judged device by device."""
