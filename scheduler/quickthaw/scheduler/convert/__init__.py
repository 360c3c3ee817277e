"""Between the wire's messages and our types. Nothing else sees both."""
