"""Tables of prices, their rules and imports. gateway.prices has the price book."""
