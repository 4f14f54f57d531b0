"""Mean and standard deviation of the channels of pixels in [0, 1], by the name under which models know them."""

STATISTICS = {
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
