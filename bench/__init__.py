"""What Parley costs and how far it goes, beside others: `./dev bench`, explained in docs/performance.md."""
