"""What `plan_stock` reads: stock, what is on its way and forecasts; what is wrong with them; what people look at."""
