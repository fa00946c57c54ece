"""The lab: the real program between real user agents, in network namespaces without a route between them."""
