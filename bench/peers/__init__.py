"""What Parley is measured beside: chats as people write them, each with the packages of its own lock file."""
