"""What a machine keeps about farms: folders, credentials, addresses, and how to connect with them."""
