"""One process per GPU: takes attempts from the scheduler, brings models up, runs them."""
