"""Follower of the change log: applies what other processes and programs have changed in the database."""

from access.directory import access
from access.limits.reading import limit_changes
from endpoints.changes import log as change_log
from endpoints.changes.log import ChangeBatch
from endpoints.changes.watched import ENDPOINT, KEY, LIMIT, NAME, USER
from endpoints.model_names.name_cache import model_names
from endpoints.registry import registry
from routerdash.publication.publisher import Publisher
from routerdash.publication.synchronisation import new_token


class ChangeFollower:
    """Follower in control. The change log also has control's own changes, which are in effect already."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def follow(self) -> None:
        """Apply the change log. Raises django.db.Error, or the errors of the writer."""
        self._publisher.rebuild_if_damaged()
        while True:
            batch = change_log.read()
            if not batch.ids:
                if registry.outdated:
                    registry.reload()  # a health check that could not be read again; the log does not have it
                if model_names.outdated:
                    model_names.reload()
                access.outdated = limit_changes.outdated = False
                return
            # Keys first: a failure to read endpoints must not keep a deleted key valid.
            access.read_again(batch.of(USER), batch.of(KEY))
            registry.read_again(batch.of(ENDPOINT))
            limit_changes.read_again(batch.of(LIMIT))
            model_names.read_again(batch.of(NAME))
            self._publisher.compare_endpoints(batch.of(ENDPOINT))
            self._publisher.publish_model_names(batch.of(NAME))
            self._publisher.follow_whole(batch)
            access.outdated = limit_changes.outdated = registry.outdated = model_names.outdated = False
            if self._publisher.failure is not None:
                return  # the log keeps what is not published
            if not self._forget(batch):
                # The database was restored meanwhile.
                self._publisher.synchronise()
                access.reload()
                registry.reload()
                model_names.reload()
            if not batch.more:
                return

    def _forget(self, batch: ChangeBatch) -> bool:
        """Give store and database a new token, and delete the rows; return False if they do not belong together."""
        token_before, token = change_log.token(), new_token(batch)
        if not self._publisher.continues(token_before):
            return False
        self._publisher.set_source(token)
        return change_log.forget(batch.ranges, token_before=token_before, token=token)
