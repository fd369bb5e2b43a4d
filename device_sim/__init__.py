"""A device and many of them: prefetches its stage maps, follows broadcasts, never asks at the moment of one.

device, connection, topic, stage_map, actions, return_window, addresses   the device: frames and the clock in, actions
              out (R18-R21), pure
wire          RFC 6455 on the client's side, no I/O
client        the lean client: a device on the network; stream_socket is one connection of it, timer_wheel all wake-ups
prefetch      stage maps, channel and artwork over HTTP
fleet         many devices on one loop
audit         the judge: who got what, when, and whether it was right; shares no code with the device (pure)
"""
