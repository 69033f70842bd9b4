"""What others see of the daemon, from outside: see scripts/load_clients and scripts/check_homeassistant."""
