"""The load generator: many conversations at once, for as little CPU as can be, since it shares the machine."""
