def score(prompts: list[str], responses: list[str]) -> list[float]:
    """One number for each response, higher is better. This example likes short responses: write your own."""
    return [-float(len(response.split())) for response in responses]
