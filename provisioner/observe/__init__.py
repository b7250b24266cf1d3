"""What an operator sees from outside: metrics, health, logs. Shared by all front ends."""
