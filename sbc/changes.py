"""What a reload changes, and what it cannot change without a restart."""

from collections.abc import Iterator

from config.model import Config

# What was opened or started once: everything else is read again for each call.
FIXED = ("control.socket", "media.engine", "media.fastpath", "media.workers", "media.dscp")
FIXED_OF_A_NETWORK = ("address", "address6", "listen", "media_address", "media_address6")
LINES_LIMIT = 100


def need_restart(old: Config, new: Config) -> list[str]:
    """Sentences on changes that only a new process can make."""
    before, after = dict(_flatten("", _plain(old))), dict(_flatten("", _plain(new)))
    hindrances = [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in FIXED if before.get(key) != after.get(key)
    ]
    for name in old.networks:
        if name not in new.networks:
            hindrances.append(f"networks.{name}: its ports are open; it cannot be taken away")
    for name, network in new.networks.items():
        known = old.networks.get(name)
        if known is None:
            hindrances.append(f"networks.{name}: its ports are not open yet")
            continue
        for key in FIXED_OF_A_NETWORK:
            was, will = getattr(known, key), getattr(network, key)
            if was != will:
                hindrances.append(f"networks.{name}.{key}: {_shown(was)} -> {_shown(will)}")
    return hindrances


def difference(old: Config, new: Config) -> list[str]:
    """`limits.max_calls: 1000 -> 500`, one line per key, at most `LINES_LIMIT`."""
    before, after = dict(_flatten("", _plain(old))), dict(_flatten("", _plain(new)))
    lines = []
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) == after.get(key):
            continue
        if key not in after:
            lines.append(f"{key}: {before[key]} taken out")
        elif key not in before:
            lines.append(f"{key}: {after[key]} added")
        else:
            lines.append(f"{key}: {before[key]} -> {after[key]}")
    if len(lines) > LINES_LIMIT:
        return [*lines[:LINES_LIMIT], f"and {len(lines) - LINES_LIMIT} more"]
    return lines


def _plain(config: Config) -> object:
    # The line of a route moves with every comment above it, and is no change.
    return config.model_dump(
        mode="json", by_alias=True, exclude={"path": True, "routes": {"__all__": {"line"}}}
    )


def _flatten(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from _flatten(f"{key}.{name}" if key else str(name), entry)
    elif isinstance(value, list) and value:
        for index, entry in enumerate(value):
            yield from _flatten(f"{key}[{index}]", entry)
    else:
        yield key, value


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
