"""Where a run is followed besides its folder: TensorBoard, W&B, MLflow. Their packages are imported when asked for."""
