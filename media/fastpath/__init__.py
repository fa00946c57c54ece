"""The kernel's part of the relay: a tc BPF program, its loader and its flow table (design.md s.6)."""
