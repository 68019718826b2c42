"""The third leg: what our bank says. Its statement files, their lines beside our payouts, and the walk from an order to a line.

`files` knows what a statement is and which layout a file has; `camt`, `swift` and `plain` read one layout each, as a stream;
`staging` checks what they read and stores it; `legs` matches lines with payouts and finds what differs; `walk` follows money
from an order to the bank and back.
"""
