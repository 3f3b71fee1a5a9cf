"""What is needed to open a farm, and by nobody who only submits to one: it is loaded when a `Farm` is made."""

from farmhand.client.embedded import EmbeddedFarm
from farmhand.client.link import DriverConfig
from farmhand.client.remote import remote_login
from farmhand.client.shared import SharedMemory
from farmhand.home.settings import chosen_farm

__all__ = ["DriverConfig", "EmbeddedFarm", "SharedMemory", "chosen_farm", "remote_login"]
