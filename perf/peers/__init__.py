"""Systems that LLMIR is compared with, one file each. A peer is a class with the interface of peers.peer.Peer."""
