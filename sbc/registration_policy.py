"""The numbers of the configuration that decide on a REGISTER."""

from config.frozen import frozen
from config.model import Config


@frozen
class RegistrationPolicy:
    """Of the section `phones`: `domains` are ours, in lower case; `registrar` is a trunk, "" for local."""

    network: str
    registrar: str
    domain: str
    domains: frozenset[str]
    max_contacts: int = 10
    min_expires_s: int = 60
    max_expires_s: int = 3600
    default_expires_s: int = 3600
    nat_expires_s: int = 60
    registrar_expires_s: int = 3600
    keepalive: str = "auto"
    keepalive_s: float = 25
    registers_per_s: float = 100
    outbound: bool = True
    gruu: bool = True
    path: bool = False
    upstream_network: str = ""
    upstream_domain: str | None = None
    wait_s: float = 8.0
    stream_expires_s: int = 300

    @classmethod
    def of_config(cls, config: Config) -> "RegistrationPolicy | None":
        """That of the section `phones`, None where there is none."""
        phones = config.phones
        if phones is None:
            return None
        network = config.networks[phones.network]
        trunk = None if phones.local else config.trunks[phones.registrar]
        domains = {config.phones_domain, network.domain, network.advertised, *network.sip_addresses}
        if trunk is not None:
            domains.add(trunk.domain)
        return cls(
            phones.network,
            "" if trunk is None else trunk.name,
            config.phones_domain,
            frozenset(name.lower() for name in domains if name),
            phones.max_contacts,
            phones.min_expires_s,
            phones.max_expires_s,
            phones.default_expires_s,
            phones.nat_expires_s,
            phones.registrar_expires_s,
            phones.keepalive,
            phones.keepalive_s,
            phones.registers_per_s,
            phones.outbound,
            phones.gruu,
            trunk is not None and trunk.path,
            "" if trunk is None else trunk.network,
            None if trunk is None else trunk.domain or phones.domain or config.networks[trunk.network].domain,
            stream_expires_s=phones.stream_expires_s,
        )
