"""Ways to run a graph. They share the walk and differ in where a stage is called."""
