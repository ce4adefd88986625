"""Settings by Celery's names: what they are by default, where they come from, and which of them mean something here."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import timedelta
from typing import Any

from futurebroker.celery.exceptions import ImproperlyConfigured, UnknownSettingWarning

#: settings that this package acts upon, with Celery's defaults
DEFAULTS: dict[str, Any] = {
    "accept_content": ("json",), "beat_schedule": {}, "broker_url": None, "enable_utc": True, "imports": (),
    "include": (), "result_backend": None, "result_expires": timedelta(days=1), "result_extended": False,
    "result_serializer": "pickle", "task_acks_late": False, "task_allow_error_cb_on_chord_header": False,
    "task_always_eager": False, "task_annotations": None, "task_create_missing_queues": True,
    "task_default_priority": None, "task_default_queue": "celery", "task_default_rate_limit": None,
    "task_eager_propagates": False, "task_ignore_result": False, "task_queues": None,
    "task_reject_on_worker_lost": None,
    "task_routes": None, "task_serializer": "pickle", "task_soft_time_limit": None, "task_store_eager_result": False,
    "task_store_errors_even_if_ignored": False, "task_time_limit": None, "task_track_started": False,
    "timezone": None, "worker_concurrency": None, "worker_hijack_root_logger": True,
    "worker_log_format": "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s",
    "worker_max_memory_per_child": None, "worker_max_tasks_per_child": None,
    "worker_task_log_format": "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
}  # fmt: skip

#: further settings of Celery's; accepted, and without a meaning here
WITHOUT_EFFECT = frozenset(
    [
        "beat_cron_starting_deadline",
        "beat_max_loop_interval",
        "beat_schedule_filename",
        "beat_scheduler",
        "beat_sync_every",
        "broker_connection_max_retries",
        "broker_connection_retry",
        "broker_connection_retry_on_startup",
        "broker_connection_timeout",
        "broker_failover_strategy",
        "broker_heartbeat",
        "broker_heartbeat_checkrate",
        "broker_login_method",
        "broker_native_delayed_delivery_queue_type",
        "broker_pool_limit",
        "broker_read_url",
        "broker_transport",
        "broker_transport_options",
        "broker_use_ssl",
        "broker_write_url",
        "broker_channel_error_retry",
        "cache_backend",
        "cache_backend_options",
        "control_exchange",
        "control_queue_exclusive",
        "control_queue_durable",
        "control_queue_expires",
        "control_queue_ttl",
        "database_create_tables_at_setup",
        "database_db_names",
        "database_engine_options",
        "database_short_lived_sessions",
        "database_table_names",
        "database_table_schemas",
        "database_url",
        "deprecated_settings",
        "event_exchange",
        "event_queue_durable",
        "event_queue_exclusive",
        "event_queue_expires",
        "event_queue_prefix",
        "event_queue_ttl",
        "event_serializer",
        "redis_backend_health_check_interval",
        "redis_backend_use_ssl",
        "redis_db",
        "redis_host",
        "redis_max_connections",
        "redis_password",
        "redis_port",
        "redis_retry_on_timeout",
        "redis_socket_connect_timeout",
        "redis_socket_keepalive",
        "redis_socket_timeout",
        "redis_username",
        "redis_client_name",
        "result_accept_content",
        "result_backend_always_retry",
        "result_backend_base_sleep_between_retries_ms",
        "result_backend_max_retries",
        "result_backend_max_sleep_between_retries_ms",
        "result_backend_thread_safe",
        "result_backend_transport_options",
        "result_cache_max",
        "result_chord_join_timeout",
        "result_chord_ordered",
        "result_chord_retry_interval",
        "result_compression",
        "result_exchange",
        "result_exchange_type",
        "result_persistent",
        "security_cert_store",
        "security_certificate",
        "security_digest",
        "security_key",
        "security_key_password",
        "task_acks_on_failure_or_timeout",
        "task_compression",
        "task_default_delivery_mode",
        "task_default_exchange",
        "task_default_exchange_type",
        "task_default_queue_type",
        "task_default_routing_key",
        "task_inherit_parent_priority",
        "task_protocol",
        "task_publish_retry",
        "task_publish_retry_policy",
        "task_queue_max_priority",
        "task_remote_tracebacks",
        "task_send_sent_event",
        "task_backend",
        "task_repr_maxlevels",
        "task_retry_on_worker_lost",
        "tasks",
        "worker_agent",
        "worker_autoscaler",
        "worker_cancel_long_running_tasks_on_connection_loss",
        "worker_consumer",
        "worker_deduplicate_successful_tasks",
        "worker_detect_quorum_queues",
        "worker_direct",
        "worker_disable_prefetch",
        "worker_disable_rate_limits",
        "worker_enable_prefetch_count_reduction",
        "worker_enable_remote_control",
        "worker_eta_task_limit",
        "worker_log_color",
        "worker_lost_wait",
        "worker_pool",
        "worker_pool_putlocks",
        "worker_pool_restarts",
        "worker_pool_start_method",
        "worker_prefetch_multiplier",
        "worker_proc_alive_timeout",
        "worker_redirect_stdouts",
        "worker_redirect_stdouts_level",
        "worker_send_task_events",
        "worker_soft_shutdown_timeout",
        "worker_state_db",
        "worker_timer",
        "worker_timer_precision",
        "worker_enable_soft_shutdown_on_idle",
        "worker_task_log_datefmt",
        "worker_log_datefmt",
        "beat_enable_remote_control",
        "worker_remote_control_max_tick_age",
        "result_chord_expires",
        "result_failure_expires",
        "django_database",
        "django_celery_beat_changed",
    ]
)
KNOWN = frozenset(DEFAULTS) | WITHOUT_EFFECT

#: names from before Celery 4
OLD_NAMES = {
    "BROKER_URL": "broker_url", "CELERY_BROKER_URL": "broker_url", "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_ACCEPT_CONTENT": "accept_content", "CELERY_ACKS_LATE": "task_acks_late",
    "CELERY_ALWAYS_EAGER": "task_always_eager", "CELERY_ANNOTATIONS": "task_annotations",
    "CELERYBEAT_SCHEDULE": "beat_schedule", "CELERYD_CONCURRENCY": "worker_concurrency",
    "CELERYD_MAX_TASKS_PER_CHILD": "worker_max_tasks_per_child", "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit", "CELERY_DEFAULT_QUEUE": "task_default_queue",
    "CELERY_DEFAULT_RATE_LIMIT": "task_default_rate_limit", "CELERY_ENABLE_UTC": "enable_utc",
    "CELERY_EAGER_PROPAGATES": "task_eager_propagates", "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_IGNORE_RESULT": "task_ignore_result", "CELERY_IMPORTS": "imports", "CELERY_INCLUDE": "include",
    "CELERY_QUEUES": "task_queues", "CELERY_ROUTES": "task_routes", "CELERY_RESULT_SERIALIZER": "result_serializer",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires", "CELERY_TASK_SERIALIZER": "task_serializer",
    "CELERY_TIMEZONE": "timezone", "CELERY_TRACK_STARTED": "task_track_started",
    "CELERY_STORE_ERRORS_EVEN_IF_IGNORED": "task_store_errors_even_if_ignored",
}  # fmt: skip


class Conf(MutableMapping[str, Any]):
    """The settings of an app, as attributes and as items; read from their source when first asked for."""

    def __init__(self) -> None:
        self.__dict__["_values"] = {}
        self.__dict__["_fallbacks"] = {}
        self.__dict__["_source"] = None
        #: goes up with every change; what is derived of settings is good for one of these
        self.__dict__["version"] = 0

    def read_later(self, source: Any, namespace: str | None) -> None:
        """Settings come from ``source``: a module's name, ``module:attribute``, an object or a mapping."""
        self.__dict__["_source"] = (source, namespace)
        self.__dict__["version"] += 1

    def _load(self) -> dict[str, Any]:
        pending = self.__dict__["_source"]
        if pending is not None:
            self.__dict__["_source"] = None
            for name, value in read(*pending).items():
                self._values.setdefault(name, value)
        values: dict[str, Any] = self.__dict__["_values"]
        return values

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Settings that count where nothing else is set."""
        for name, value in defaults.items():
            self.__dict__["_fallbacks"].setdefault(known_name(name), value)
        self.__dict__["version"] += 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return self.__dict__[name]
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no setting {name!r}{_nearest(name)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        name = OLD_NAMES.get(name, name)
        values = self._load()
        if name in values:
            return values[name]
        fallbacks = self.__dict__["_fallbacks"]
        if name in fallbacks:
            return fallbacks[name]
        if name in WITHOUT_EFFECT:
            return None
        return DEFAULTS[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[known_name(name)] = value
        self.__dict__["version"] += 1

    def __delitem__(self, name: str) -> None:
        del self._load()[known_name(name)]
        self.__dict__["version"] += 1

    def __iter__(self) -> Iterator[str]:
        return iter({**DEFAULTS, **self.__dict__["_fallbacks"], **self._load()})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {**self.__dict__["_fallbacks"], **self._load()}

    def __repr__(self) -> str:
        return f"<Conf: {self.changed()!r}>"


def known_name(name: str) -> str:
    """The name of today of a setting; an unknown one is warned of, with the nearest known."""
    name = OLD_NAMES.get(name, name)
    lower = name.lower()
    if lower in KNOWN:
        return lower
    if not name.startswith("_"):
        warnings.warn(f"unknown setting {name!r}{_nearest(lower)}", UnknownSettingWarning, stacklevel=3)
    return name


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def read(source: Any, namespace: str | None) -> dict[str, Any]:
    """The settings in ``source``, by their names of today.

    Raises:
        ImproperlyConfigured: it can't be imported, or mixes names from before and after Celery 4.
    """
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        try:
            source = importlib.import_module(module)
            source = getattr(source, attribute) if attribute else source
        except (ImportError, AttributeError) as error:
            raise ImproperlyConfigured(f"settings can't be read from {source!r}: {error}") from error
    given = source if isinstance(source, Mapping) else {name: getattr(source, name) for name in dir(source)}
    found: dict[str, Any] = {}
    old: list[str] = []
    new: list[str] = []
    prefix = f"{namespace}_" if namespace else ""
    for name, value in given.items():
        if name.startswith("_") or (prefix and not name.startswith(prefix)):
            continue
        bare = name.removeprefix(prefix)
        if not prefix and name in OLD_NAMES and name.lower() not in KNOWN:
            old.append(name)
            found[OLD_NAMES[name]] = value
        elif isinstance(source, Mapping) or bare.lower() in KNOWN or prefix:
            if not prefix and bare.islower() and bare in KNOWN:
                new.append(bare)
            found[known_name(bare)] = value
        elif bare.isidentifier() and (bare.startswith(("CELERY_", "CELERYD_")) or _looks_meant(bare)):
            known_name(bare)
    if old and new:
        raise ImproperlyConfigured(
            f"settings with old names ({', '.join(old)}) and new ones ({', '.join(new[:5])}) can't be mixed; "
            f"write {', '.join(OLD_NAMES[name] for name in old)}"
        )
    return found


def _looks_meant(name: str) -> bool:
    """Whether a name in a module is likely to be a mistyped setting and not one of its own things."""
    lower = name.lower()
    return lower.startswith(("task_", "worker_", "broker_", "beat_", "result_"))
