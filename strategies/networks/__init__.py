"""Networks: growing heads, backbone and head as one module, precision, counted passes."""
