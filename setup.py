"""Packages and data of futurebroker; everything else stands in pyproject.toml.

``futurebroker/broker_adapters`` and its like are symbolic links to top-level folders. ``find_packages`` follows them,
and ``include`` keeps the folders' own names out, so that site-packages gets the one name ``futurebroker``.
"""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["futurebroker", "futurebroker.*"]),
    package_data={
        "futurebroker": ["py.typed", "*.pyi", "migrations/*.mako"],
        "futurebroker.web": ["*.json", "static/*", "templates/*", "templates/*/*"],
    },
    include_package_data=False,
    zip_safe=False,
)
