"""Any OpenAI client's conversations go on though the cache forgets: between client and Dynamo's frontend."""
