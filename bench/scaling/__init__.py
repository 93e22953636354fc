"""From the figures of one machine to fleets: costs, a simulation that reproduces them, and the arithmetic of size."""
