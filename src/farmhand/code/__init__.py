"""Shipping of code and values: any callable and its arguments as bytes, named by content hash.

Pure functions on bytes and files; nothing here knows an engine, a network or an event loop. The client side is
`pack`, the slot side is `load`; `failure` carries exceptions both ways, `bundle` the source of the user's own
modules.
"""
