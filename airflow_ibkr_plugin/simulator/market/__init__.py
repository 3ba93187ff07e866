"""What trades, when, and at what price: contracts, hours, prices, history."""
