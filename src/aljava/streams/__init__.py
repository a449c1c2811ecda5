"""Payloads on the move: Arrow IPC streams over sockets and pipes.

`endpoints` knows addresses and makes connections, `channels` moves bytes over them, `sending` and `receiving` turn
record batches into messages on a channel and back, `sharing` sends tokens for shared memory in their place where both
ends are of one machine, and `listening` accepts connections.
"""
