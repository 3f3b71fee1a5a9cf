"""Who may do what: keys, the farm's certificate authority, users and their permissions, join lines."""
