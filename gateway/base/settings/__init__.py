"""Parts of gateway.base.config.Config."""
