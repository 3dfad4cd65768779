"""The conversation of a request, and an index of its turns.

The column is nullable and has no default, so that no row is rewritten. The index has no rows yet, but the database reads
the table once to find that out: about a minute for ten million requests. Meanwhile the log reports the progress.
"""

import logging
import threading
import time

import endpoints.fields
from django.db import migrations, models

REPORT_SECONDS = 5.0

log = logging.getLogger(__name__)


class AddReportedIndex(migrations.AddIndex):
    """AddIndex that reports how long it has been running, in a thread: databases have no common progress."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        done = threading.Event()
        reports = threading.Thread(target=report, args=(done, self.index.name), daemon=True)
        reports.start()
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            done.set()
            reports.join()


def report(done, name, seconds=REPORT_SECONDS):
    started = time.monotonic()
    while not done.wait(seconds):
        log.info("the index %s is being created: %d s so far", name, time.monotonic() - started)


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0012_learning'),
    ]

    operations = [
        migrations.AddField(
            model_name='requesthistory',
            name='conversation',
            field=endpoints.fields.LineField(null=True, verbose_name='conversation'),
        ),
        AddReportedIndex(
            model_name='requesthistory',
            index=models.Index(
                condition=models.Q(('conversation__isnull', False)), fields=['conversation', 'completed_at'], name='history_conversation'
            ),
        ),
    ]
