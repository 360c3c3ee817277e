"""The gRPC services: each method parses, calls and renders."""
