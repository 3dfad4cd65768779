"""The services of control: made in one place, each with the others that it needs.

`make_services` changes nothing outside of what it returns, so that a test may make the services of an installation.
`connect` and `subscribe` give them to the process, whose caches and pages are the same objects in every process.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from access.directory import access
from access.keys.names import KeyNames
from access.limits.reading import limit_changes
from endpoints import sealer
from endpoints.changes.listening import ChangeSignal, change_signal
from endpoints.checks.engine_poller import EnginePoller
from endpoints.checks.sync_queue import SyncQueue
from endpoints.health import HealthChecker
from endpoints.model_names.name_cache import model_names
from endpoints.registry import Entry, registry
from gateway.base.addresses import normalise_ip
from gateway.base.config import Config
from gateway.base.sealing import Unsealable
from gateway.ipc.bound_hits import Hits
from gateway.ipc.live_page import LivePage
from gateway.registry.kinds import PRICES
from gateway.registry.writer import Changes
from metrics.costs import rows as cost_rows
from metrics.costs.price_cache import price_cache
from metrics.memory.installation import InstallationState
from metrics.memory.runtime import runtime
from metrics.spending.money import Money
from metrics.spending.publisher import SpendingPublisher
from metrics.storage import database, seeding
from metrics.storage.history_rows import EndpointName
from metrics.storage.writer import DatabaseWriter
from routerdash.publication.audit import Audit
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.learner import Learner
from routerdash.publication.published_state import PublishedState
from routerdash.publication.publisher import Publisher


@dataclass(frozen=True, slots=True)
class ControlServices:
    """ControlServices of one control process, in the order in which they are made: each needs earlier ones only."""

    config: Config
    change_signal: ChangeSignal
    spending: SpendingPublisher
    publisher: Publisher
    published: PublishedState
    learner: Learner
    writer: DatabaseWriter
    jobs: ThreadPoolExecutor  # of `syncs`
    syncs: SyncQueue
    health: HealthChecker
    engines: EnginePoller
    changes: ChangeFollower
    audit: Audit
    key_names: KeyNames
    caches_outdated: threading.Event  # set while endpoints, users and keys cannot be read
    installation: InstallationState

    def close(self) -> None:
        """Release what is open without `Control.run`."""
        self.publisher.close()
        self.jobs.shutdown(wait=False)
        self.change_signal.close()


def make_services(config: Config) -> ControlServices:
    """Return the services of an installation. They do nothing until they are run."""
    page = LivePage(config.live_page_path)
    signal = change_signal()
    spending = SpendingPublisher(
        page.spending,
        runtime.follower.reader,
        config.zone,
        lambda entry: cost_rows.pricing().cost(entry),
        Money(config.zone, price_cache.rates),
    )
    # After a failure, publishing is tried again soon.
    publisher = Publisher(config, page, before_limits=spending.cover, failed=signal.wake)
    learner = Learner(publisher)

    def seed_again() -> None:
        seeding.seed()
        learner.read_again()

    writer = DatabaseWriter(
        runtime.follower,
        config.zone,
        endpoint_name,
        history=config.history,
        reseed=seed_again,
        learned=learner.samples_changed,
        spending=spending,
    )
    jobs = ThreadPoolExecutor(1, "jobs")
    syncs = SyncQueue(jobs)
    health = HealthChecker(
        registry,
        secret_of,
        publisher.live.last_byte,
        syncs.passed_check,
        lambda: writer.backlog.error is not None,
        database.refuse_moved_files,
    )
    engines = EnginePoller(
        registry,
        secret_of,
        publisher.live.in_flight_at,
        lambda states: publisher.publish_learned(Changes(engines=states)),
        lambda: page.registry_generation,
    )
    live, published = publisher.live, PublishedState(publisher)
    key_names, caches_outdated = KeyNames(), threading.Event()
    installation = InstallationState(
        bound_hits=Hits(page),
        writer=writer,
        in_flight=live.in_flight,
        waiting=live.waiting,
        waiting_interactive=live.waiting_interactive,
        pending=live.pending,
        watch=live.watch,
        cancel=live.cancel,
        cancelled=live.cancelled,
        unrecorded=live.unrecorded,
        trials=live.trials,
        aside=live.aside,
        engine=engines.reading,
        limit_use=live.limit_use,
        routes=published.routes,
        model_names=published.model_names,
        speeds=published.speeds,
        lengths=published.lengths,
        engine_state=published.engine_state,
        affinity=live.affinity,
        prefix_share=lambda: learner.prefix_share,
        revision=published.revision,
        is_pending=publisher.is_pending,
        pending_reason=published.pending_reason,
        publication_failure=lambda: publisher.failure,
        drifted_at=lambda: publisher.drifted_at,
        is_serving=lambda: publisher.is_serving,
        is_outdated=caches_outdated.is_set,
        key_names=key_names.of,
        generated_passwords=access.generated_passwords,
    )
    return ControlServices(
        config=config,
        change_signal=signal,
        spending=spending,
        publisher=publisher,
        published=published,
        learner=learner,
        writer=writer,
        jobs=jobs,
        syncs=syncs,
        health=health,
        engines=engines,
        changes=ChangeFollower(publisher),
        audit=Audit(publisher),
        key_names=key_names,
        caches_outdated=caches_outdated,
        installation=installation,
    )


def connect(services: ControlServices) -> None:
    """Give caches and pages of this process the state of its installation."""
    live = services.publisher.live
    runtime.connect(services.installation)
    registry.connect(in_flight=live.in_flight, reset_breaker=live.reset_breaker)
    access.connect(find_key=services.published.find_key)


def subscribe(services: ControlServices) -> None:
    """Let the services follow the caches of this process, from now on."""
    publisher, learner = services.publisher, services.learner
    registry.subscribe(publisher.publish_endpoints)
    registry.subscribe(learner.endpoints_changed)
    model_names.subscribe(publisher.publish_model_names)
    access.subscribe(publisher.publish_keys)
    access.subscribe(learner.keys_changed)
    access.subscribe(lambda keys: services.key_names.expire())
    limit_changes.subscribe(publisher.publish_limits)
    price_cache.subscribe(services.spending.forget)  # other rates change what was spent
    price_cache.subscribe(lambda: publisher.publish_whole(PRICES))
    runtime.follower.on_unknown_model(services.syncs.unknown_model)


def endpoint_name(endpoint_id: str) -> EndpointName:
    """Return name and address of an endpoint for the history."""
    entry = registry.get(endpoint_id)
    if entry is None:
        return EndpointName(registry.name(endpoint_id) or "(deleted)", "0.0.0.0")  # noqa: S104
    return EndpointName(entry.name, normalise_ip(urlsplit(entry.base_url).hostname or "") or "0.0.0.0")  # noqa: S104


def secret_of(entry: Entry) -> str | None:
    """Return the API key for an endpoint; None: it has none, or it cannot be decrypted."""
    if entry.sealed_api_key is None:
        return entry.plain_api_key
    try:
        return sealer.sealer().open(entry.sealed_api_key)
    except Unsealable:
        return None
