"""The floor of the comparison: our own hops without any feature. Less than this, the same hops cannot cost."""
