"""The media bench: real streams through a relay between network namespaces, with CPU, loss and delay."""
