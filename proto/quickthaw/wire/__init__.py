"""What both ends of a call share: errors, their gRPC status, limits."""
