"""The only package that speaks to NATS: server process, connection, streams, stored publishes, pulls, blobs."""
