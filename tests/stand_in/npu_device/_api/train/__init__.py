from npu_device._api.train import optimizer as optimizer
