"""Sockets that are secure or do not exist."""
