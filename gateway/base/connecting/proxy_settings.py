"""Settings of the proxy that endpoints without one of their own use."""

from dataclasses import dataclass

from gateway.base.cloud_settings import CloudSettings
from gateway.base.connecting import forward_proxy
from gateway.base.connecting.forward_proxy import ForwardProxy, NoProxy
from gateway.base.setting_parsers import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings(CloudSettings):
    """Part of gateway.base.config.Config."""

    upstream_proxy: ForwardProxy | None = setting(
        "ROUTERDASH_UPSTREAM_PROXY",
        "",
        forward_proxy.proxy,
        "URL of an HTTP proxy for all endpoints without one of their own, such as "
        "`http://user:password@proxy.example.com:3128`; empty: none. `HTTP_PROXY` and `HTTPS_PROXY` have no effect.",
        secret=True,
    )
    upstream_no_proxy: NoProxy = setting(
        "ROUTERDASH_UPSTREAM_NO_PROXY",
        "",
        forward_proxy.no_proxy,
        "Endpoints that the usual proxy is not used for, separated by commas: host names, which include all names "
        "below them, addresses and networks; `*`: all. Loopback addresses never use it.",
    )
